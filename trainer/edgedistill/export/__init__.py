"""From a torch module to the file that ships."""
