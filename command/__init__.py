"""What the command line does: its flags, the pictures that it is given, where their results belong, and making them."""
