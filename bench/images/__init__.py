"""Pictures: the photographs that are measured with, the demonstration, and the illustrations of the documents."""
