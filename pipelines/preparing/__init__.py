"""Writing data sets as shards, by any number of processes; what is made of what is in `datasets`."""
