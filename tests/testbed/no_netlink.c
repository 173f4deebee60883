/* Preloaded into the browser: it cannot ask the kernel for the machine's interfaces.
 *
 * Every container that starts or ends changes them, on which Chromium breaks off what it
 * loads by HTTP/2 (net::ERR_NETWORK_CHANGED). Who cannot ask takes the network to be
 * there and to stay.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <sys/socket.h>

int socket(int domain, int type, int protocol)
{
    static int (*next)(int, int, int);
    if (domain == AF_NETLINK) {
        errno = EAFNOSUPPORT;
        return -1;
    }
    if (!next) next = (int (*)(int, int, int))dlsym(RTLD_NEXT, "socket");
    return next(domain, type, protocol);
}
