"""The page of sid2-play: what it is asked for (settings), of which models, drawn (drawing), served (server)."""
