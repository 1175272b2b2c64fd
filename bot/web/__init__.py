"""What the assistant serves over HTTP: the site chat, its demo page and the health checks."""
