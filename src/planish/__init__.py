"""planish."""
