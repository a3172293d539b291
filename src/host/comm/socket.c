/* socket.c - TCP connections with deadlines. */
#include "comm/socket.h"

#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "core/machine.h"

static csp_status fail_errno(int error)
{
    return CSP_FAIL(CSP_ERR_COMM, "%s", strerror(error));
}

static void set_prompt(int fd)
{
    const int on = 1;

    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    (void)setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
}

/* Whether fd is ready for events before the deadline; also when it is broken. */
static bool is_ready(int fd, short events, double deadline)
{
    struct pollfd entry = { .fd = fd, .events = events };

    for (;;) {
        const double left = deadline - csp_machine_seconds();
        const int ready = poll(&entry, 1,
                               left <= 0.0  ? 0
                               : left > 1.0 ? 1000
                                            : (int)(left * 1e3) + 1);

        if (ready > 0) {
            return true;
        }
        if ((ready < 0 && errno != EINTR) || left <= 0.0) {
            return false;
        }
    }
}

/* A socket that listens on every address of a family; -1 and errno if there is none. */
static int listen_on(int family, int port)
{
    const int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    const int on = 1, off = 0;
    struct sockaddr_in6 six = { .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port) };
    struct sockaddr_in four = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };
    int error;

    if (fd < 0) {
        return -1;
    }
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (family == AF_INET6) {
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
        error = bind(fd, (struct sockaddr *)&six, sizeof(six));
    } else {
        error = bind(fd, (struct sockaddr *)&four, sizeof(four));
    }
    if (error != 0 || listen(fd, SOMAXCONN) != 0) {
        error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

csp_status csp_socket_listen(int port, int *fd, int *bound)
{
    struct sockaddr_storage name;
    socklen_t length = sizeof(name);
    int made = listen_on(AF_INET6, port);

    if (made < 0 && errno != EADDRINUSE && errno != EACCES) {
        made = listen_on(AF_INET, port); // no IPv6 here
    }
    if (made < 0) {
        return fail_errno(errno);
    }
    if (getsockname(made, (struct sockaddr *)&name, &length) != 0) {
        const int error = errno;

        close(made);
        return fail_errno(error);
    }
    *bound = ntohs(name.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&name)->sin6_port
                                              : ((struct sockaddr_in *)&name)->sin_port);
    *fd = made;
    return CSP_OK;
}

csp_status csp_socket_accept(int listener, double deadline, int *fd)
{
    int made = -1;

    if (is_ready(listener, POLLIN, deadline)) {
        made = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (made >= 0) {
            set_prompt(made);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM) {
            return fail_errno(errno);
        } // else: the caller went away again
    }
    *fd = made;
    return CSP_OK;
}

static csp_status connect_to(const struct sockaddr *to, socklen_t length, double deadline, int *out)
{
    const int fd = socket(to->sa_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int error = 0;
    socklen_t bytes = sizeof(error);

    if (fd < 0) {
        return fail_errno(errno);
    }
    if (connect(fd, to, length) != 0) {
        error = errno;
        if (error == EINPROGRESS) {
            if (!is_ready(fd, POLLOUT, deadline)) {
                error = ETIMEDOUT;
            } else if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &bytes) != 0) {
                error = errno;
            }
        }
    }
    if (error != 0) {
        close(fd);
        return fail_errno(error);
    }
    set_prompt(fd);
    *out = fd;
    return CSP_OK;
}

csp_status csp_socket_connect(const csp_address *address, int port, double deadline, int *fd)
{
    struct sockaddr_in6 six = { .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)port) };
    struct sockaddr_in four = { .sin_family = AF_INET, .sin_port = htons((uint16_t)port) };

    if (address->family == 6) {
        memcpy(&six.sin6_addr, address->bytes, 16);
        return connect_to((struct sockaddr *)&six, sizeof(six), deadline, fd);
    }
    memcpy(&four.sin_addr, address->bytes, 4);
    return connect_to((struct sockaddr *)&four, sizeof(four), deadline, fd);
}

csp_status csp_socket_connect_name(const char *host, int port, double deadline, int *fd)
{
    const struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM };
    struct addrinfo *list = NULL;
    csp_status status = CSP_ERR_COMM;
    char service[16];
    int error;

    (void)snprintf(service, sizeof(service), "%d", port);
    error = getaddrinfo(host, service, &hints, &list);
    if (error != 0) {
        return CSP_FAIL(CSP_ERR_COMM, "%s",
                        error == EAI_SYSTEM ? strerror(errno) : gai_strerror(error));
    }
    for (const struct addrinfo *at = list; at != NULL && status != CSP_OK; at = at->ai_next) {
        status = connect_to(at->ai_addr, at->ai_addrlen, deadline, fd);
    }
    freeaddrinfo(list);
    return status;
}

csp_status csp_socket_send(int fd, const void *data, size_t bytes, double deadline)
{
    const char *at = data;

    while (bytes > 0) {
        const ssize_t n = send(fd, at, bytes, MSG_NOSIGNAL);

        if (n > 0) {
            at += n;
            bytes -= (size_t)n;
        } else if (n < 0 && errno != EAGAIN && errno != EINTR) {
            return fail_errno(errno);
        } else if (!is_ready(fd, POLLOUT, deadline)) {
            return fail_errno(ETIMEDOUT);
        }
    }
    return CSP_OK;
}

csp_status csp_socket_receive(int fd, void *data, size_t bytes, double deadline)
{
    char *at = data;

    while (bytes > 0) {
        const ssize_t n = recv(fd, at, bytes, 0);

        if (n > 0) {
            at += n;
            bytes -= (size_t)n;
        } else if (n == 0) {
            return CSP_FAIL(CSP_ERR_COMM, "the connection was closed");
        } else if (errno != EAGAIN && errno != EINTR) {
            return fail_errno(errno);
        } else if (!is_ready(fd, POLLIN, deadline)) {
            return fail_errno(ETIMEDOUT);
        }
    }
    return CSP_OK;
}

/* A socket address as ours; an IPv4 address in IPv6's clothes as the former. */
static bool take(const struct sockaddr *from, csp_address *out)
{
    csp_address address = { 0 };

    if (from->sa_family == AF_INET) {
        address.family = 4;
        memcpy(address.bytes, &((const struct sockaddr_in *)from)->sin_addr, 4);
    } else if (from->sa_family == AF_INET6) {
        const struct in6_addr *six = &((const struct sockaddr_in6 *)from)->sin6_addr;

        if (IN6_IS_ADDR_LINKLOCAL(six)) {
            return false; // means nothing without the name of an interface
        }
        if (IN6_IS_ADDR_V4MAPPED(six)) {
            address.family = 4;
            memcpy(address.bytes, six->s6_addr + 12, 4);
        } else {
            address.family = 6;
            memcpy(address.bytes, six->s6_addr, 16);
        }
    } else {
        return false;
    }
    *out = address;
    return true;
}

bool csp_socket_peer(int fd, csp_address *out)
{
    struct sockaddr_storage name;
    socklen_t length = sizeof(name);

    return getpeername(fd, (struct sockaddr *)&name, &length) == 0 &&
           take((struct sockaddr *)&name, out);
}

void csp_socket_own_addresses(csp_address out[CSP_ADDRESSES])
{
    struct ifaddrs *list = NULL;
    int n = 0;

    memset(out, 0, CSP_ADDRESSES * sizeof(*out));
    if (getifaddrs(&list) != 0) {
        return;
    }
    for (int loopback = 0; loopback <= 1; loopback++) {
        for (const struct ifaddrs *at = list; at != NULL && n < CSP_ADDRESSES; at = at->ifa_next) {
            const bool is_loopback = (at->ifa_flags & IFF_LOOPBACK) != 0;

            if (at->ifa_addr != NULL && (at->ifa_flags & IFF_UP) != 0 &&
                is_loopback == (loopback == 1) && take(at->ifa_addr, &out[n])) {
                n++;
            }
        }
    }
    freeifaddrs(list);
}

bool csp_address_is_same(const csp_address *a, const csp_address *b)
{
    return memcmp(a, b, sizeof(*a)) == 0;
}
