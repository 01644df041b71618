"""What can be looked into of a finished study: the tokens and texts behind a number."""
