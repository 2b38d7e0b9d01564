"""Images, audio and video of rows: fetched, bounded and checked by ourselves, on CPUs, before an engine sees them.

A row's author may be a stranger, so what a row names is a way into the network and the disk of whoever runs the job. No
URL is fetched and no file is opened unless the workload says which; what comes is decoded once, by a few well-known
decoders.
"""
