"""Tables of results that are declared, run row by row, and written from kept metrics files only.

A table is a TOML file (`table`); `running` trains and evaluates its rows, `records` keeps what each row measured beside
the page, and `page` and `plots` write the page from those files and nothing else.
"""
