"""Training DIN in other libraries and here, each in a process and an environment of its own."""
