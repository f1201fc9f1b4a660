"""The page on which a person moves a picture and watches the answers of the served models."""
