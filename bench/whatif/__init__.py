"""What a trace of any program says about slower host copies and a slower CPU, without running the program."""
