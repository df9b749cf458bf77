"""From shards to batches: finding, checking and decoding records, in an order that is a function of the seed."""
