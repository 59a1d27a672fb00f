"""What is made from records alone, on any machine, without torch."""
