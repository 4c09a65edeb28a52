/* Records, in the order in which they happen, all changes of files below one folder: a library for LD_PRELOAD.
 *
 * POWER_CUT_ROOT: the folder. POWER_CUT_LOG: the file to append to. One process may write below the folder.
 * A record is a line of fields with tabs between them, then as many bytes of data as its second field says:
 *
 *   open    0  FILE  FLAGS  PATH          FILE numbers what has been opened; PATH is absolute
 *   write   N  FILE  OFFSET               N bytes
 *   cut     0  FILE  LENGTH               ftruncate
 *   sync    0  FILE                       fsync or fdatasync, after it returned
 *   mkdir, rmdir, unlink  0  PATH
 *   rename, link          0  PATH  PATH
 *   mark    0  TEXT                       power_cut_mark(TEXT), called by the recorded program
 *   lost    0  CALL                       a change that cannot be recorded: the recording is useless
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#define FILES 65536
static long file_of[FILES]; /* descriptor -> FILE, 0 for what is not recorded */
static long opened;
static int record = -1;
static char root[PATH_MAX];
static size_t root_length;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor)) static void start(void) {
    const char *folder = getenv("POWER_CUT_ROOT"), *file = getenv("POWER_CUT_LOG");
    if (!folder || !file || !realpath(folder, root)) return;
    root_length = strlen(root);
    record = syscall(SYS_openat, AT_FDCWD, file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
}

static void all(const void *data, size_t length) {
    while (length) {
        long done = syscall(SYS_write, record, data, length);
        if (done < 0) abort();
        data = (const char *)data + done;
        length -= done;
    }
}

static void say(const char *format, ...) {
    char line[3 * PATH_MAX];
    va_list values;
    va_start(values, format);
    int length = vsnprintf(line, sizeof line, format, values);
    va_end(values);
    all(line, length);
}

/* Whether a path lies below the folder; `whole` becomes the absolute path, without links in its folders. */
static int below(int folder, const char *path, char *whole) {
    char joined[2 * PATH_MAX], parent[PATH_MAX], name[PATH_MAX];
    if (record < 0 || !path) return 0;
    if (path[0] == '/') {
        snprintf(joined, sizeof joined, "%s", path);
    } else {
        char place[64], base[PATH_MAX];
        snprintf(place, sizeof place, folder == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", folder);
        long length = readlink(place, base, sizeof base - 1);
        if (length < 0) return 0;
        base[length] = 0;
        snprintf(joined, sizeof joined, "%s/%s", base, path);
    }
    size_t end = strlen(joined);
    while (end > 1 && joined[end - 1] == '/') joined[--end] = 0;
    char *slash = strrchr(joined, '/');
    snprintf(name, sizeof name, "%s", slash + 1);
    if (!strcmp(name, ".") || !strcmp(name, "..")) {
        if (!realpath(joined, whole)) return 0;
    } else {
        *(slash == joined ? slash + 1 : slash) = 0;
        if (!realpath(joined, parent)) return 0;
        if (strlen(parent) + strlen(name) + 2 > PATH_MAX) abort();
        strcat(strcat(strcpy(whole, strcmp(parent, "/") ? parent : ""), "/"), name);
    }
    return !strncmp(whole, root, root_length) && (whole[root_length] == '/' || !whole[root_length]);
}

static long known(int descriptor) {
    return record >= 0 && descriptor >= 0 && descriptor < FILES ? file_of[descriptor] : 0;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define GUARDED(result, call, recorded)          \
    pthread_mutex_lock(&lock);                   \
    __typeof__(call) result = (call);            \
    int error = errno;                           \
    if (result >= 0) { recorded; }               \
    pthread_mutex_unlock(&lock);                 \
    errno = error;                               \
    return result

static int open_at(int folder, const char *path, int flags, mode_t mode) {
    char whole[PATH_MAX];
    if (!below(folder, path, whole)) {
        int result = syscall(SYS_openat, folder, path, flags, mode);
        if (result >= 0 && result < FILES && record >= 0) file_of[result] = 0;
        return result;
    }
    GUARDED(result, (int)syscall(SYS_openat, folder, path, flags, mode), {
        if (result >= FILES) abort();
        file_of[result] = ++opened;
        say("open\t0\t%ld\t%d\t%s\n", opened, flags, whole);
    });
}

#define MODE(flags)                              \
    mode_t mode = 0;                             \
    if (flags & (O_CREAT | __O_TMPFILE)) {       \
        va_list values;                          \
        va_start(values, flags);                 \
        mode = va_arg(values, mode_t);           \
        va_end(values);                          \
    }
int open(const char *path, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return open_at(AT_FDCWD, path, flags, mode); }
int openat(int folder, const char *path, int flags, ...) { MODE(flags) return open_at(folder, path, flags, mode); }
int openat64(int folder, const char *path, int flags, ...) { MODE(flags) return open_at(folder, path, flags, mode); }
int creat(const char *path, mode_t mode) { return open_at(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

int close(int descriptor) {
    if (record >= 0 && descriptor >= 0 && descriptor < FILES) file_of[descriptor] = 0;
    return syscall(SYS_close, descriptor);
}

static void copied(int from, int to) {
    if (record >= 0 && to >= 0 && to < FILES) file_of[to] = known(from);
}
int dup(int from) { int to = REAL(dup)(from); copied(from, to); return to; }
int dup2(int from, int to) { int result = REAL(dup2)(from, to); if (result >= 0) copied(from, to); return result; }
int dup3(int from, int to, int flags) {
    int result = REAL(dup3)(from, to, flags);
    if (result >= 0) copied(from, to);
    return result;
}

static int control(int from, int command, void *value) {
    int result = syscall(SYS_fcntl, from, command, value);
    if (result >= 0 && (command == F_DUPFD || command == F_DUPFD_CLOEXEC)) copied(from, result);
    return result;
}
#define VALUE                                    \
    va_list values;                              \
    va_start(values, command);                   \
    void *value = va_arg(values, void *);        \
    va_end(values);
int fcntl(int from, int command, ...) { VALUE return control(from, command, value); }
int fcntl64(int from, int command, ...) { VALUE return control(from, command, value); }

static long place(int descriptor) {
    struct stat found;
    if (fcntl(descriptor, F_GETFL) & O_APPEND) return fstat(descriptor, &found) ? 0 : found.st_size;
    return lseek(descriptor, 0, SEEK_CUR);
}

static void wrote(long file, long offset, const struct iovec *parts, size_t length) {
    say("write\t%zu\t%ld\t%ld\n", length, file, offset);
    for (; length; parts++) {
        size_t here = parts->iov_len < length ? parts->iov_len : length;
        all(parts->iov_base, here);
        length -= here;
    }
}

ssize_t write(int descriptor, const void *data, size_t length) {
    long file = known(descriptor);
    if (!file) return syscall(SYS_write, descriptor, data, length);
    struct iovec part = {(void *)data, length};
    long offset;
    GUARDED(result, (offset = place(descriptor), (ssize_t)syscall(SYS_write, descriptor, data, length)),
            wrote(file, offset, &part, result));
}

ssize_t writev(int descriptor, const struct iovec *parts, int count) {
    long file = known(descriptor);
    if (!file) return syscall(SYS_writev, descriptor, parts, count);
    long offset;
    GUARDED(result, (offset = place(descriptor), (ssize_t)syscall(SYS_writev, descriptor, parts, count)),
            wrote(file, offset, parts, result));
}

ssize_t pwrite(int descriptor, const void *data, size_t length, off_t offset) {
    long file = known(descriptor);
    if (!file) return syscall(SYS_pwrite64, descriptor, data, length, offset);
    struct iovec part = {(void *)data, length};
    GUARDED(result, (ssize_t)syscall(SYS_pwrite64, descriptor, data, length, offset),
            wrote(file, offset, &part, result));
}
ssize_t pwrite64(int descriptor, const void *data, size_t length, off64_t offset) {
    return pwrite(descriptor, data, length, offset);
}

ssize_t pwritev(int descriptor, const struct iovec *parts, int count, off_t offset) {
    long file = known(descriptor);
    if (!file) return REAL(pwritev)(descriptor, parts, count, offset);
    GUARDED(result, REAL(pwritev)(descriptor, parts, count, offset), wrote(file, offset, parts, result));
}
ssize_t pwritev64(int descriptor, const struct iovec *parts, int count, off64_t offset) {
    return pwritev(descriptor, parts, count, offset);
}

int ftruncate(int descriptor, off_t length) {
    long file = known(descriptor);
    if (!file) return syscall(SYS_ftruncate, descriptor, length);
    GUARDED(result, (int)syscall(SYS_ftruncate, descriptor, length), say("cut\t0\t%ld\t%ld\n", file, (long)length));
}
int ftruncate64(int descriptor, off64_t length) { return ftruncate(descriptor, length); }

int fsync(int descriptor) {
    long file = known(descriptor);
    if (!file) return syscall(SYS_fsync, descriptor);
    GUARDED(result, (int)syscall(SYS_fsync, descriptor), say("sync\t0\t%ld\n", file));
}
int fdatasync(int descriptor) { return fsync(descriptor); }

static int name_at(const char *what, long call, int folder, const char *path, long value) {
    char whole[PATH_MAX];
    if (!below(folder, path, whole)) return syscall(call, folder, path, value);
    GUARDED(result, (int)syscall(call, folder, path, value), say("%s\t0\t%s\n", what, whole));
}
int mkdir(const char *path, mode_t mode) { return name_at("mkdir", SYS_mkdirat, AT_FDCWD, path, mode); }
int mkdirat(int folder, const char *path, mode_t mode) { return name_at("mkdir", SYS_mkdirat, folder, path, mode); }
int rmdir(const char *path) { return name_at("rmdir", SYS_unlinkat, AT_FDCWD, path, AT_REMOVEDIR); }
int unlink(const char *path) { return name_at("unlink", SYS_unlinkat, AT_FDCWD, path, 0); }
int unlinkat(int folder, const char *path, int flags) {
    return name_at(flags & AT_REMOVEDIR ? "rmdir" : "unlink", SYS_unlinkat, folder, path, flags);
}

static int names_at(const char *what, long call, int from, const char *old, int to, const char *new, long value) {
    char before[PATH_MAX], after[PATH_MAX];
    int one = below(from, old, before), other = below(to, new, after);
    if (!one && !other) return syscall(call, from, old, to, new, value);
    GUARDED(result, (int)syscall(call, from, old, to, new, value), {
        if (one && other && !(call == SYS_renameat2 && value)) say("%s\t0\t%s\t%s\n", what, before, after);
        else say("lost\t0\t%s\n", what);
    });
}
int rename(const char *old, const char *new) {
    return names_at("rename", SYS_renameat2, AT_FDCWD, old, AT_FDCWD, new, 0);
}
int renameat(int from, const char *old, int to, const char *new) {
    return names_at("rename", SYS_renameat2, from, old, to, new, 0);
}
int renameat2(int from, const char *old, int to, const char *new, unsigned flags) {
    return names_at("rename", SYS_renameat2, from, old, to, new, flags);
}
int link(const char *old, const char *new) { return names_at("link", SYS_linkat, AT_FDCWD, old, AT_FDCWD, new, 0); }
int linkat(int from, const char *old, int to, const char *new, int flags) {
    return names_at("link", SYS_linkat, from, old, to, new, flags);
}

/* Calls that nothing recorded so far makes below the folder. */
#define LOST(descriptor, name, call)             \
    if (known(descriptor)) {                     \
        GUARDED(result, call, say("lost\t0\t" name "\n")); \
    }                                            \
    return call
ssize_t sendfile(int to, int from, off_t *offset, size_t count) {
    LOST(to, "sendfile", REAL(sendfile)(to, from, offset, count));
}
ssize_t sendfile64(int to, int from, off64_t *offset, size_t count) {
    LOST(to, "sendfile", REAL(sendfile64)(to, from, offset, count));
}
ssize_t copy_file_range(int from, off64_t *before, int to, off64_t *after, size_t count, unsigned flags) {
    LOST(to, "copy_file_range", REAL(copy_file_range)(from, before, to, after, count, flags));
}
int fallocate(int descriptor, int mode, off_t offset, off_t length) {
    LOST(descriptor, "fallocate", REAL(fallocate)(descriptor, mode, offset, length));
}
int posix_fallocate(int descriptor, off_t offset, off_t length) {
    LOST(descriptor, "posix_fallocate", REAL(posix_fallocate)(descriptor, offset, length));
}

void power_cut_mark(const char *text) {
    if (record < 0) return;
    pthread_mutex_lock(&lock);
    say("mark\t0\t%s\n", text);
    pthread_mutex_unlock(&lock);
}
