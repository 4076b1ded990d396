"""What all endpoints share on the HTTP side."""
