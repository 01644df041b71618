"""What states of tokens say of the scores of single queries."""
