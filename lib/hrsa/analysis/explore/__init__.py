"""What can be looked into of a finished study: the tokens behind a number, and every table and state that there is."""
