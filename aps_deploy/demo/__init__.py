"""The whole road in one command, without network or data set: train, export, verify, compare, draw."""
