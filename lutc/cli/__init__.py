"""The command line: every verb parses, calls the API, and prints the report object it gets back."""
