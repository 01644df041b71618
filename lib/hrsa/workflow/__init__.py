"""What starts things: the graph of a study, its jobs, the engine, GPUs, plans, the command line."""
