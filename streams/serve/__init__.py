"""What runs within a server: the client, its outbox, and the model that is always the live one."""
