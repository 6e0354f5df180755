"""HTTP lives here alone."""
