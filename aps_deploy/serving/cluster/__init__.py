"""The same server on many hosts: replicas of the ASGI application on a Ray cluster, behind Ray Serve's HAProxy."""
