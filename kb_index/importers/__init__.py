"""What others' files become: drafts of articles, or a line that says what is wrong and what to do."""
