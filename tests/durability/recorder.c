/* Writes down, in order, all that a process does to files below SMG_DISK_ROOT: what came to the
 * file system, and what of it was synced. Loaded by LD_PRELOAD; the entries go to SMG_DISK_LOG.
 *
 * An entry: kind (1 byte), length of the path (2), offset (8), length of what follows (4), the
 * path, the bytes. Kinds: c created, w written, t truncated to the offset, s synced, u unlinked,
 * m folder made, l linked to the name that follows.
 *
 * One lock is held over an entry and what it tells of: a write that is in the log before a sync
 * was made before it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static const char *root;
static size_t root_length;
static int log_fd = -1;

__attribute__((constructor)) static void begin(void)
{
    const char *log = getenv("SMG_DISK_LOG");
    root = getenv("SMG_DISK_ROOT");
    if (root == NULL || log == NULL)
        return;
    root_length = strlen(root);
    log_fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (log_fd < 0)
        abort();
}

static int is_ours(const char *path)
{
    return log_fd >= 0 && path != NULL && strncmp(path, root, root_length) == 0 &&
           (path[root_length] == '/' || path[root_length] == 0);
}

/* The path of an open file, if it is below the root and still has a name. */
static int path_of(int fd, char *path)
{
    char link[64];
    if (log_fd < 0)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return is_ours(path) && strstr(path, " (deleted)") == NULL;
}

static void tell(char kind, const char *path, int64_t offset, const void *bytes, uint32_t length)
{
    uint16_t path_length = strlen(path);
    size_t total = 15 + path_length + length, done = 0;
    char *entry = malloc(total);
    if (entry == NULL)
        abort();
    entry[0] = kind;
    memcpy(entry + 1, &path_length, 2);
    memcpy(entry + 3, &offset, 8);
    memcpy(entry + 11, &length, 4);
    memcpy(entry + 15, path, path_length);
    if (length)
        memcpy(entry + 15 + path_length, bytes, length);
    while (done < total) {
        ssize_t wrote = syscall(SYS_write, log_fd, entry + done, total - done);
        if (wrote < 0)
            abort();
        done += wrote;
    }
    free(entry);
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (real == NULL) \
        real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

/* Do it, and write it down if it went well and is about one of our files. */
#define RECORDED(result_type, ours, call, went_well, entry) \
    do { \
        if (!(ours)) \
            return call; \
        pthread_mutex_lock(&lock); \
        result_type result = call; \
        if (went_well) \
            entry; \
        pthread_mutex_unlock(&lock); \
        return result; \
    } while (0)

static int opened(int (*real)(const char *, int, ...), const char *path, int flags, mode_t mode)
{
    char name[PATH_MAX];
    if (!is_ours(path) || !(flags & (O_CREAT | O_TRUNC)))
        return real(path, flags, mode);
    pthread_mutex_lock(&lock);
    int was_there = access(path, F_OK) == 0;
    int fd = real(path, flags, mode);
    if (fd >= 0 && path_of(fd, name)) {
        if (!was_there)
            tell('c', name, 0, NULL, 0);
        else if (flags & O_TRUNC)
            tell('t', name, 0, NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

#define OPEN(name) \
    int name(const char *path, int flags, ...) \
    { \
        REAL(int, #name, const char *, int, ...); \
        va_list rest; \
        va_start(rest, flags); \
        mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0; \
        va_end(rest); \
        return opened(real, path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define PWRITE(name) \
    ssize_t name(int fd, const void *bytes, size_t length, off64_t offset) \
    { \
        REAL(ssize_t, #name, int, const void *, size_t, off64_t); \
        char path[PATH_MAX]; \
        RECORDED(ssize_t, path_of(fd, path), real(fd, bytes, length, offset), result > 0, \
                 tell('w', path, offset, bytes, result)); \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

ssize_t write(int fd, const void *bytes, size_t length)
{
    REAL(ssize_t, "write", int, const void *, size_t);
    char path[PATH_MAX];
    RECORDED(ssize_t, path_of(fd, path), real(fd, bytes, length), result > 0,
             tell('w', path, lseek64(fd, 0, SEEK_CUR) - result, bytes, result));
}

#define TRUNCATE(name) \
    int name(int fd, off64_t size) \
    { \
        REAL(int, #name, int, off64_t); \
        char path[PATH_MAX]; \
        RECORDED(int, path_of(fd, path), real(fd, size), result == 0, \
                 tell('t', path, size, NULL, 0)); \
    }
TRUNCATE(ftruncate)
TRUNCATE(ftruncate64)

#define SYNC(name) \
    int name(int fd) \
    { \
        REAL(int, #name, int); \
        char path[PATH_MAX]; \
        RECORDED(int, path_of(fd, path), real(fd), result == 0, tell('s', path, 0, NULL, 0)); \
    }
SYNC(fsync)
SYNC(fdatasync)

int unlink(const char *path)
{
    REAL(int, "unlink", const char *);
    RECORDED(int, is_ours(path), real(path), result == 0, tell('u', path, 0, NULL, 0));
}

int mkdir(const char *path, mode_t mode)
{
    REAL(int, "mkdir", const char *, mode_t);
    RECORDED(int, is_ours(path), real(path, mode), result == 0, tell('m', path, 0, NULL, 0));
}

int link(const char *path, const char *other)
{
    REAL(int, "link", const char *, const char *);
    RECORDED(int, is_ours(path), real(path, other), result == 0,
             tell('l', path, 0, other, strlen(other)));
}
