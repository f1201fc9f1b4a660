"""What running a model costs: a server under load, and files in their runtimes beside each other."""
