"""What files say of their images before a decoder sees them: one small parser for each container."""
