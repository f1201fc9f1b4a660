"""The steps of a verification: each measures something and enters it under its gate."""
