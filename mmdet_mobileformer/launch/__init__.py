"""From the command line to a config: arguments, the flags that rewrite a config, its protection.

It may import every room but `analysis`; what lives inside a run (`engine`) knows nothing of it.
"""
