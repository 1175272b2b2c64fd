"""Knowledge base: articles, their passages, and search over them by meaning and by words."""
