/*
 * socket.h - TCP connections with deadlines, over IPv4 and IPv6.
 *
 * A deadline is a time of csp_machine_seconds(). All sockets are non-blocking, closed on exec, and
 * send small messages at once. Errors, unless said otherwise: CSP_ERR_COMM with the system's words
 * and nothing else, for the caller to put into a sentence.
 */
#pragma once

#include <stddef.h>

#include "core/status.h"

enum { CSP_ADDRESSES = 8 };

typedef struct csp_address {
    int32_t family; /* 4, 6; 0: none */
    uint8_t bytes[16];
} csp_address;

/* Listens on all addresses of the machine. port 0: any, *bound tells which. */
CSP_CHECKED csp_status csp_socket_listen(int port, int *fd, int *bound);

/* One connection, if one comes before the deadline; *fd is -1 if none does. */
CSP_CHECKED csp_status csp_socket_accept(int listener, double deadline, int *fd);

CSP_CHECKED csp_status csp_socket_connect(const csp_address *address, int port, double deadline,
                                          int *fd);

/* The same to a host by name: its addresses one after another. */
CSP_CHECKED csp_status csp_socket_connect_name(const char *host, int port, double deadline,
                                               int *fd);

CSP_CHECKED csp_status csp_socket_send(int fd, const void *data, size_t bytes, double deadline);
CSP_CHECKED csp_status csp_socket_receive(int fd, void *data, size_t bytes, double deadline);

/* Where the other end of a connection is. */
bool csp_socket_peer(int fd, csp_address *out);

/* Addresses under which other machines may reach this one, those of this machine alone last. */
void csp_socket_own_addresses(csp_address out[CSP_ADDRESSES]);

bool csp_address_is_same(const csp_address *a, const csp_address *b);
