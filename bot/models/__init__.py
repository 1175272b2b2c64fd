"""What is trained, judged, tried out and put into use."""
