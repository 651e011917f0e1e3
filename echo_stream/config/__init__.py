"""The configuration: its schema, and how a file is read and checked against it."""
