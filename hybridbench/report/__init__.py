"""report: records as tables, charts and one Markdown page; needs no torch.

groups      which records may stand side by side
display     the unit a column of numbers is shown in
tables      tables for the terminal, Markdown and CSV
frame       records as a pandas DataFrame
charts      Altair charts as PNG and SVG
write       all of them into a folder
live        progress while a sweep runs
"""
