"""What several files of the folder above share; nothing here is content by itself."""
