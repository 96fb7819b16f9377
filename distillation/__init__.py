"""Teacher to student to release."""
