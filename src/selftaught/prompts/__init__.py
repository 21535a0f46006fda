"""Problems as text."""
