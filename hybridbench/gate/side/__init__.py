"""side: the program that measures one side of a pair: a process that prepares cells and times them block by block."""
