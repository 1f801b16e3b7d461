"""What is wrong with the data, found before the first iteration.

It may import `engine` and what lies below; it changes neither the config nor the data.
"""
