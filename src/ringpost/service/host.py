"""What a process hosts: the services, their pipeline and worker, the store and the way to other processes."""
