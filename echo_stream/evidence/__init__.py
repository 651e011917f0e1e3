"""Evidence keeps the sound of an alarm on disk, with a document and a picture."""
