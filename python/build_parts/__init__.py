"""What a wheel is made of. Runs where wheels are built, and is not part of them."""
