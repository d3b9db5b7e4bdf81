"""What is read from and written to a user's disk: images, clips, and masks in many formats."""
