"""What the optimization passes share; what is known of one way only stands in a folder of its own."""
