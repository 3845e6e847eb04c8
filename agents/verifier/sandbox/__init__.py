"""What keeps candidates from doing anything but compute."""
