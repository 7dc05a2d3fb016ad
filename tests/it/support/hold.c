/* A process whose memory map nobody can read, then connects: hold FUSE DIR ADDRESS
 *
 * DIR becomes a file system of its own that never answers a read. One thread reads a page of it through
 * /proc/self/mem, which holds the lock of the memory map; another one wants to change the map, so that
 * whoever reads it later, as /proc/PID/cmdline does, waits behind. Ends when its standard input does. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { FOREVER = 3600, PAGE = 4096 };

static char *page;
static volatile pid_t reader, writer;
static volatile int is_read;

static void check(int failed, const char *what) {
    if (failed) {
        perror(what);
        exit(1);
    }
}

static void reply(int fd, uint64_t unique, int error, const void *data, size_t length) {
    static char out[8192];
    struct fuse_out_header head = {.len = sizeof head + length, .error = error, .unique = unique};
    memcpy(out, &head, sizeof head);
    memcpy(out + sizeof head, data, length);
    check(write(fd, out, head.len) < 0, "reply");
}

static struct fuse_attr attributes(uint64_t node) {
    struct fuse_attr attr = {.ino = node, .nlink = 1, .blksize = PAGE};
    attr.mode = node == FUSE_ROOT_ID ? S_IFDIR | 0755 : S_IFREG | 0644;
    attr.size = node == FUSE_ROOT_ID ? 0 : PAGE;
    return attr;
}

static void serve(int fd) {
    static char in[1 << 17];
    for (;;) {
        if (read(fd, in, sizeof in) < 0) {
            if (errno == EINTR || errno == ENOENT)
                continue;
            _exit(0);
        }
        struct fuse_in_header head;
        memcpy(&head, in, sizeof head);
        switch (head.opcode) {
        case FUSE_INIT: {
            struct fuse_init_out out = {.major = 7, .minor = 31, .max_write = PAGE};
            reply(fd, head.unique, 0, &out, sizeof out);
            break;
        }
        case FUSE_LOOKUP: {
            struct fuse_entry_out out = {.nodeid = 2, .attr_valid = FOREVER, .entry_valid = FOREVER};
            out.attr = attributes(2);
            reply(fd, head.unique, 0, &out, sizeof out);
            break;
        }
        case FUSE_GETATTR: {
            struct fuse_attr_out out = {.attr_valid = FOREVER, .attr = attributes(head.nodeid)};
            reply(fd, head.unique, 0, &out, sizeof out);
            break;
        }
        case FUSE_OPEN: {
            struct fuse_open_out out = {0};
            reply(fd, head.unique, 0, &out, sizeof out);
            break;
        }
        case FUSE_READ: /* never answered */
        case FUSE_FORGET:
        case FUSE_INTERRUPT:
        case FUSE_RELEASE:
            break;
        default:
            reply(fd, head.unique, -ENOSYS, NULL, 0);
        }
    }
}

static void *read_page(void *memory) {
    static char byte;
    reader = syscall(SYS_gettid);
    pread(*(int *)memory, &byte, 1, (off_t)(uintptr_t)page);
    return NULL;
}

static void *change_map(void *unused) {
    writer = syscall(SYS_gettid);
    while (!is_read)
        usleep(10000);
    mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return unused;
}

/* Waits until a thread sleeps, in one of these states. */
static void until_held(const volatile pid_t *thread, const char *states) {
    static char path[64], stat[512];
    for (;;) {
        usleep(10000);
        if (!*thread)
            continue;
        snprintf(path, sizeof path, "/proc/self/task/%d/stat", *thread);
        int fd = open(path, O_RDONLY);
        ssize_t length = read(fd, stat, sizeof stat - 1);
        close(fd);
        const char *state = length > 0 ? strstr(stat, ") ") : NULL;
        if (state && strchr(states, state[2]))
            return;
    }
}

int main(int count, char **argument) {
    check(count != 4, "hold FUSE DIR ADDRESS");
    check(unshare(CLONE_NEWNS), "unshare");
    check(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL), "private mounts");
    int fuse = open(argument[1], O_RDWR);
    check(fuse < 0, argument[1]);
    char text[256];
    snprintf(text, sizeof text, "fd=%d,rootmode=40000,user_id=0,group_id=0", fuse);
    check(mount("fuse", argument[2], "fuse", MS_NOSUID | MS_NODEV, text), "mount");
    if (!fork()) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        serve(fuse);
    }
    close(fuse);
    snprintf(text, sizeof text, "%s/file", argument[2]);
    int file = open(text, O_RDONLY);
    check(file < 0, text);
    int memory = open("/proc/self/mem", O_RDONLY);
    check(memory < 0, "/proc/self/mem");
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(80)};
    inet_pton(AF_INET, argument[3], &to.sin_addr);
    int sock = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    pthread_t first, second;
    /* Nothing of the main thread may need the map later: not even a page of code. */
    check(mlockall(MCL_CURRENT), "mlockall");
    page = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE, file, 0);
    check(page == MAP_FAILED, "mmap");
    /* Both are made before the map is held: a new thread needs a stack, which changes the map. */
    check(pthread_create(&second, NULL, change_map, NULL), "thread");
    check(pthread_create(&first, NULL, read_page, &memory), "thread");
    until_held(&reader, "SD"); /* it waits for the file */
    is_read = 1;
    until_held(&writer, "D"); /* it waits for the reader */
    connect(sock, (struct sockaddr *)&to, sizeof to);
    char byte;
    while (read(0, &byte, 1) > 0)
        ;
    _exit(0);
}
