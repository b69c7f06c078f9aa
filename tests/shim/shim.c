/* A library that tests preload into a server (LD_PRELOAD). It watches the files below one directory and keeps a journal
 * of what a power cut would undo: every write, truncation, creation, rename and removal that no fsync has covered yet,
 * with what was there before. The test kills the process and then applies the cut (tests/support/shim/cut.rs). While
 * the process runs, a mapped control file injects faults: failing, slow or fatal syncs, a full disk, failing reads and
 * writes.
 *
 * It never delays or changes what no fault was asked for, and never touches files outside of the directory. Invariant:
 * the journal record of a change is written before the change, that of a sync after the sync (that of a creation follows
 * it too: an empty file may survive); so at any moment of death the journal covers what is not durable. A file's contents become durable by fsync or fdatasync of it; its
 * name by fsync of its directory, as POSIX promises and no more. What a failed sync covered never becomes durable: the
 * pages were marked clean, and the next sync lies.
 *
 * Not covered: stores through a writable shared mapping (counted as `blind`), io_uring, names of directories. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* Shared with tests/support/shim.rs: order and width of every field are part of the contract. */
struct control {
    uint64_t seq, graves;                                           /* survive restarts of the process */
    uint64_t syncs, dir_syncs, writes, written, failed, blind;      /* what was seen */
    uint64_t fail_sync_at, fail_syncs, crash_sync_at, delay_us;     /* faults of syncs: 0 is none */
    uint64_t room_set, room;                                        /* bytes left before ENOSPC, if set */
    uint64_t fail_reads, fail_writes;                               /* EIO */
    char match[128];                                                /* faults touch paths that hold this; empty: all */
};

enum kind { WRITE = 1, RESIZE, SYNC, LOST, CREATE, RENAME, UNLINK };

struct record {
    uint32_t magic, kind, path_len, data_len;
    uint64_t seq, ino, offset, len, old_len, dir;
};
#define MAGIC 0x4d475348u

#define BUCKETS 4096
struct node {
    struct node *next;
    uint64_t dev, ino;
    char path[];
};
struct grave {
    struct grave *next;
    uint64_t dir, number, seq;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct node *files[BUCKETS];
static struct grave *graves;
static struct control *control;
static char root[PATH_MAX], state[PATH_MAX];
static size_t root_len;
static int journal = -1;

/* Faults that the test could not explain would be worse than a dead process. */
static void give_up(const char *why) {
    dprintf(2, "fault shim: %s: %s\n", why, strerror(errno));
    syscall(SYS_kill, getpid(), SIGKILL);
}

__attribute__((constructor)) static void start(void) {
    const char *r = getenv("MAGNETAR_SHIM_ROOT"), *s = getenv("MAGNETAR_SHIM_STATE");
    if (!r || !s) return;
    snprintf(root, sizeof root, "%s", r);
    snprintf(state, sizeof state, "%s", s);
    char name[PATH_MAX + 16];
    snprintf(name, sizeof name, "%s/control", state);
    int fd = syscall(SYS_openat, AT_FDCWD, name, O_RDWR | O_CLOEXEC);
    if (fd < 0) give_up("control file");
    void *map = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) give_up("mapping the control file");
    syscall(SYS_close, fd);
    snprintf(name, sizeof name, "%s/journal", state);
    journal = syscall(SYS_openat, AT_FDCWD, name, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (journal < 0) give_up("journal");
    control = map;
    root_len = strlen(root);
}

/* ---- what is known ---- */

static struct node **bucket(uint64_t ino) { return &files[(ino * 0x9e3779b97f4a7c15u) >> 52]; }

static struct node *find(uint64_t dev, uint64_t ino) {
    struct node *n = *bucket(ino);
    while (n && (n->ino != ino || n->dev != dev)) n = n->next;
    return n;
}

static void forget(uint64_t dev, uint64_t ino) {
    for (struct node **p = bucket(ino); *p; p = &(*p)->next)
        if ((*p)->ino == ino && (*p)->dev == dev) {
            struct node *gone = *p;
            *p = gone->next;
            free(gone);
            return;
        }
}

static void know(const struct stat *st, const char *path) {
    forget(st->st_dev, st->st_ino);
    struct node *n = malloc(sizeof *n + strlen(path) + 1);
    if (!n) give_up("memory");
    n->dev = st->st_dev, n->ino = st->st_ino;
    strcpy(n->path, path);
    n->next = *bucket(n->ino);
    *bucket(n->ino) = n;
}

/* The absolute path if it lies below the watched directory. */
static const char *watched(int at, const char *path, char *out) {
    if (!control || !path) return NULL;
    if (path[0] == '/') {
        if (strlen(path) >= PATH_MAX) return NULL;
        strcpy(out, path);
    } else {
        char base[PATH_MAX], link[64];
        if (at == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
        else snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        ssize_t n = syscall(SYS_readlinkat, AT_FDCWD, link, base, sizeof base - 1);
        if (n <= 0 || (size_t)n + 1 + strlen(path) >= PATH_MAX) return NULL;
        base[n] = 0;
        memcpy(out, base, n);
        out[n] = '/';
        strcpy(out + n + 1, path);
    }
    return strncmp(out, root, root_len) == 0 && out[root_len] == '/' ? out : NULL;
}

static uint64_t parent_of(const char *path) {
    char dir[PATH_MAX];
    strcpy(dir, path);
    *strrchr(dir, '/') = 0;
    struct stat st;
    return fstatat(AT_FDCWD, dir, &st, 0) == 0 ? st.st_ino : 0;
}

static int stat_at(const char *path, struct stat *st) {
    int before = errno, got = fstatat(AT_FDCWD, path, st, AT_SYMLINK_NOFOLLOW);
    errno = before;
    return got == 0 && S_ISREG(st->st_mode);
}

/* The watched file behind a descriptor, with what stat says; called under the lock. */
static struct node *behind(int fd, struct stat *st) {
    if (!control) return NULL;
    int before = errno, got = fstat(fd, st);
    errno = before;
    return got == 0 && S_ISREG(st->st_mode) ? find(st->st_dev, st->st_ino) : NULL;
}

static int hit(const char *path) { return !control->match[0] || strstr(path, control->match) != NULL; }

/* ---- the journal ---- */

static void put(struct record r, const char *path, const char *second, const void *data) {
    r.magic = MAGIC;
    if (r.kind != SYNC && r.kind != LOST) r.seq = ++control->seq;
    r.path_len = path ? strlen(path) + 1 + (second ? strlen(second) : 0) : 0;
    struct iovec v[5] = {{&r, sizeof r}, {(void *)path, path ? strlen(path) : 0}, {"\n", path ? 1 : 0},
                         {(void *)second, second ? strlen(second) : 0}, {(void *)data, r.data_len}};
    int before = errno;
    ssize_t want = sizeof r + r.path_len + r.data_len;
    if (syscall(SYS_writev, journal, v, 5) != want) give_up("writing the journal");
    errno = before;
}

/* Remembers what `len` bytes at `offset` are about to replace. */
static void before_write(int fd, const struct stat *st, uint64_t offset, uint64_t len) {
    uint64_t old = st->st_size, overlap = offset < old ? (offset + len < old ? len : old - offset) : 0;
    char *image = NULL;
    if (overlap) {
        image = malloc(overlap);
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        int from = syscall(SYS_openat, AT_FDCWD, link, O_RDONLY | O_CLOEXEC);
        if (!image || from < 0) give_up("a pre-image");
        for (uint64_t done = 0; done < overlap;) {
            ssize_t n = syscall(SYS_pread64, from, image + done, overlap - done, offset + done);
            if (n <= 0) give_up("reading a pre-image");
            done += n;
        }
        syscall(SYS_close, from);
    }
    put((struct record){.kind = WRITE, .ino = st->st_ino, .offset = offset, .len = len, .old_len = old,
                        .data_len = overlap}, NULL, NULL, image);
    free(image);
}

static void before_resize(int fd, const struct stat *st, uint64_t len) {
    uint64_t old = st->st_size, cut = len < old ? old - len : 0;
    char *image = cut ? malloc(cut) : NULL;
    if (cut) {
        char link[64];
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        int from = syscall(SYS_openat, AT_FDCWD, link, O_RDONLY | O_CLOEXEC);
        if (!image || from < 0) give_up("a pre-image");
        for (uint64_t done = 0; done < cut;) {
            ssize_t n = syscall(SYS_pread64, from, image + done, cut - done, len + done);
            if (n <= 0) give_up("reading a pre-image");
            done += n;
        }
        syscall(SYS_close, from);
    }
    put((struct record){.kind = RESIZE, .ino = st->st_ino, .offset = len, .old_len = old, .data_len = cut}, NULL, NULL,
        image);
    free(image);
}

/* A second name, so that a file that is removed or replaced can come back. */
static uint64_t bury(const char *path) {
    uint64_t number = ++control->graves;
    char grave[PATH_MAX + 32];
    snprintf(grave, sizeof grave, "%s/grave-%llu", state, (unsigned long long)number);
    if (syscall(SYS_linkat, AT_FDCWD, path, AT_FDCWD, grave, 0) != 0) give_up("burying a file");
    struct grave *g = malloc(sizeof *g);
    if (!g) give_up("memory");
    *g = (struct grave){graves, parent_of(path), number, control->seq + 1};
    graves = g;
    return number;
}

/* The directory was synced: what was removed from it before stays removed. */
static void purge(uint64_t dir, uint64_t seq) {
    for (struct grave **p = &graves; *p;) {
        struct grave *g = *p;
        if (g->dir != dir || g->seq > seq) {
            p = &g->next;
            continue;
        }
        char path[PATH_MAX + 32];
        snprintf(path, sizeof path, "%s/grave-%llu", state, (unsigned long long)g->number);
        struct stat st;
        if (stat_at(path, &st) && st.st_nlink == 1) forget(st.st_dev, st.st_ino);
        syscall(SYS_unlinkat, AT_FDCWD, path, 0);
        *p = g->next;
        free(g);
    }
}

/* ---- opening ---- */

static int do_open(int at, const char *path, int flags, mode_t mode) {
    char full[PATH_MAX];
    const char *p = watched(at, path, full);
    if (!p || (flags & (O_DIRECTORY | O_PATH)) || (flags & O_TMPFILE) == O_TMPFILE)
        return syscall(SYS_openat, at, path, flags, mode);
    pthread_mutex_lock(&lock);
    struct stat st;
    int there = stat_at(p, &st);
    if (there && (flags & O_TRUNC) && !(flags & O_EXCL) && st.st_size > 0) {
        int fd = syscall(SYS_openat, AT_FDCWD, p, O_RDONLY | O_CLOEXEC);
        if (fd >= 0) {
            before_resize(fd, &st, 0);
            syscall(SYS_close, fd);
        }
    }
    int fd = syscall(SYS_openat, at, path, flags, mode);
    if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode)) {
        know(&st, p);
        /* Comes after its change, because the inode is not known before. */
        if (!there && (flags & O_CREAT))
            put((struct record){.kind = CREATE, .ino = st.st_ino, .dir = parent_of(p)}, p, NULL, NULL);
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

#define MODE(flags)                                   \
    mode_t mode = 0;                                  \
    if ((flags) & (O_CREAT | __O_TMPFILE)) {          \
        va_list list;                                 \
        va_start(list, flags);                        \
        mode = va_arg(list, mode_t);                  \
        va_end(list);                                 \
    }
int open(const char *path, int flags, ...) { MODE(flags) return do_open(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return do_open(AT_FDCWD, path, flags, mode); }
int openat(int at, const char *path, int flags, ...) { MODE(flags) return do_open(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE(flags) return do_open(at, path, flags, mode); }
int creat(const char *path, mode_t mode) { return do_open(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

/* ---- writing ---- */

static size_t total(const struct iovec *v, int n) {
    size_t sum = 0;
    for (int i = 0; i < n; i++) sum += v[i].iov_len;
    return sum;
}

/* All writes end here; a negative offset means where the descriptor stands. */
static ssize_t do_write(int fd, const struct iovec *v, int n, int64_t at) {
    int positioned = at >= 0;
    if (!control) goto plain;
    pthread_mutex_lock(&lock);
    struct stat st;
    struct node *f = behind(fd, &st);
    if (!f) {
        pthread_mutex_unlock(&lock);
        goto plain;
    }
    size_t len = total(v, n);
    ssize_t got = -1;
    if (control->fail_writes && hit(f->path)) {
        control->failed++;
        errno = EIO;
        goto done;
    }
    uint64_t where = positioned ? (uint64_t)at : (uint64_t)syscall(SYS_lseek, fd, 0, SEEK_CUR);
    if (syscall(SYS_fcntl, fd, F_GETFL) & O_APPEND) where = st.st_size;
    if (control->room_set && hit(f->path)) {
        uint64_t end = where + len, grows = end > (uint64_t)st.st_size ? end - st.st_size : 0;
        if (grows > control->room) {
            control->failed++;
            errno = ENOSPC;
            goto done;
        }
        control->room -= grows;
    }
    control->writes++;
    control->written += len;
    before_write(fd, &st, where, len);
    got = positioned ? syscall(SYS_pwritev, fd, v, n, at, 0) : syscall(SYS_writev, fd, v, n);
done:
    pthread_mutex_unlock(&lock);
    return got;
plain:
    if (n == 1)
        return positioned ? syscall(SYS_pwrite64, fd, v->iov_base, v->iov_len, at)
                          : syscall(SYS_write, fd, v->iov_base, v->iov_len);
    return positioned ? syscall(SYS_pwritev, fd, v, n, at, 0) : syscall(SYS_writev, fd, v, n);
}

ssize_t write(int fd, const void *data, size_t len) { return do_write(fd, &(struct iovec){(void *)data, len}, 1, -1); }
ssize_t writev(int fd, const struct iovec *v, int n) { return do_write(fd, v, n, -1); }
ssize_t pwrite(int fd, const void *data, size_t len, off_t at) {
    return do_write(fd, &(struct iovec){(void *)data, len}, 1, at);
}
ssize_t pwrite64(int fd, const void *data, size_t len, off_t at) { return pwrite(fd, data, len, at); }
ssize_t pwritev(int fd, const struct iovec *v, int n, off_t at) { return do_write(fd, v, n, at); }
ssize_t pwritev64(int fd, const struct iovec *v, int n, off_t at) { return do_write(fd, v, n, at); }

/* Without these, bytes would move inside of the kernel; callers fall back to read and write. */
ssize_t copy_file_range(int in, off_t *at_in, int out, off_t *at_out, size_t len, unsigned flags) {
    if (control) return errno = ENOSYS, -1;
    return syscall(SYS_copy_file_range, in, at_in, out, at_out, len, flags);
}
ssize_t sendfile(int out, int in, off_t *at, size_t len) {
    if (control) return errno = ENOSYS, -1;
    return syscall(SYS_sendfile, out, in, at, len);
}
ssize_t sendfile64(int out, int in, off_t *at, size_t len) { return sendfile(out, in, at, len); }

int ftruncate(int fd, off_t len) {
    pthread_mutex_lock(&lock);
    struct stat st;
    if (behind(fd, &st) && st.st_size != len) before_resize(fd, &st, len);
    int got = syscall(SYS_ftruncate, fd, len);
    pthread_mutex_unlock(&lock);
    return got;
}
int ftruncate64(int fd, off_t len) { return ftruncate(fd, len); }

int fallocate(int fd, int mode, off_t offset, off_t len) {
    pthread_mutex_lock(&lock);
    struct stat st;
    struct node *f = behind(fd, &st);
    int got = -1;
    if (f && control->room_set && hit(f->path) && !(mode & FALLOC_FL_PUNCH_HOLE) && (uint64_t)len > control->room) {
        control->failed++;
        errno = ENOSPC;
    } else {
        if (f && !(mode & FALLOC_FL_KEEP_SIZE) && offset + len > st.st_size) before_resize(fd, &st, offset + len);
        got = syscall(SYS_fallocate, fd, mode, offset, len);
    }
    pthread_mutex_unlock(&lock);
    return got;
}
int fallocate64(int fd, int mode, off_t offset, off_t len) { return fallocate(fd, mode, offset, len); }

/* ---- reading ---- */

static int read_fails(int fd) {
    if (!control || !control->fail_reads) return 0;
    pthread_mutex_lock(&lock);
    struct stat st;
    struct node *f = behind(fd, &st);
    int fails = f && hit(f->path);
    if (fails) control->failed++;
    pthread_mutex_unlock(&lock);
    if (fails) errno = EIO;
    return fails;
}
ssize_t read(int fd, void *to, size_t len) { return read_fails(fd) ? -1 : syscall(SYS_read, fd, to, len); }
ssize_t readv(int fd, const struct iovec *v, int n) { return read_fails(fd) ? -1 : syscall(SYS_readv, fd, v, n); }
ssize_t pread(int fd, void *to, size_t len, off_t at) {
    return read_fails(fd) ? -1 : syscall(SYS_pread64, fd, to, len, at);
}
ssize_t pread64(int fd, void *to, size_t len, off_t at) { return pread(fd, to, len, at); }

/* A mapping of a watched file that can be stored through would hide changes from the journal. */
void *mmap(void *where, size_t len, int prot, int flags, int fd, off_t at) {
    if (control && fd >= 0 && (prot & PROT_WRITE) && (flags & MAP_TYPE) != MAP_PRIVATE) {
        pthread_mutex_lock(&lock);
        struct stat st;
        if (behind(fd, &st)) control->blind++;
        pthread_mutex_unlock(&lock);
    }
    return (void *)syscall(SYS_mmap, where, len, prot, flags, fd, at);
}
void *mmap64(void *where, size_t len, int prot, int flags, int fd, off_t at) {
    return mmap(where, len, prot, flags, fd, at);
}

/* ---- syncing ---- */

/* What the faults say about this sync: 0 go on, otherwise it fails. Called under the lock. */
static int sync_fails(const struct node *f, uint64_t *delay) {
    uint64_t number = ++control->syncs;
    *delay = 0;
    if (!hit(f->path)) return 0;
    *delay = control->delay_us;
    if (control->crash_sync_at && number >= control->crash_sync_at) {
        control->crash_sync_at = 0;
        syscall(SYS_kill, getpid(), SIGKILL);
    }
    if (!control->fail_syncs && !(control->fail_sync_at && number >= control->fail_sync_at)) return 0;
    control->fail_sync_at = 0;
    control->failed++;
    return 1;
}

static void pause_for(uint64_t us) {
    struct timespec left = {us / 1000000, us % 1000000 * 1000};
    while (syscall(SYS_nanosleep, &left, &left) != 0 && errno == EINTR) {}
}

static int do_sync(int fd, long call) {
    if (!control) return syscall(call, fd);
    pthread_mutex_lock(&lock);
    struct stat st;
    struct node *f = behind(fd, &st);
    int dir = !f && fstat(fd, &st) == 0 && S_ISDIR(st.st_mode);
    if (!f && !dir) {
        pthread_mutex_unlock(&lock);
        return syscall(call, fd);
    }
    uint64_t seq = control->seq, delay = 0;
    int fails = 0;
    if (dir) control->dir_syncs++;
    else fails = sync_fails(f, &delay);
    if (fails) put((struct record){.kind = LOST, .seq = seq, .ino = st.st_ino}, NULL, NULL, NULL);
    pthread_mutex_unlock(&lock);
    if (delay) pause_for(delay);
    if (fails) return errno = EIO, -1;
    int got = syscall(call, fd);
    if (got != 0) return got;
    pthread_mutex_lock(&lock);
    put((struct record){.kind = SYNC, .seq = seq, .ino = st.st_ino}, NULL, NULL, NULL);
    if (dir) purge(st.st_ino, seq);
    pthread_mutex_unlock(&lock);
    return 0;
}
int fsync(int fd) { return do_sync(fd, SYS_fsync); }
int fdatasync(int fd) { return do_sync(fd, SYS_fdatasync); }
/* Starts write-back and promises nothing; neither does it here. */
int sync_file_range(int fd, off_t offset, off_t len, unsigned flags) {
    return syscall(SYS_sync_file_range, fd, offset, len, flags);
}
int msync(void *where, size_t len, int flags) { return syscall(SYS_msync, where, len, flags); }

/* ---- names ---- */

static int do_rename(int from_at, const char *from, int to_at, const char *to, unsigned flags) {
    char a[PATH_MAX], b[PATH_MAX];
    const char *p = watched(from_at, from, a), *q = watched(to_at, to, b);
    struct stat st, old;
    if (!p || !q || !stat_at(p, &st)) return syscall(SYS_renameat2, from_at, from, to_at, to, flags);
    pthread_mutex_lock(&lock);
    uint64_t grave = stat_at(q, &old) && old.st_ino != st.st_ino ? bury(q) : 0;
    put((struct record){.kind = RENAME, .ino = st.st_ino, .offset = grave, .dir = parent_of(q)}, p, q, NULL);
    int got = syscall(SYS_renameat2, from_at, from, to_at, to, flags);
    if (got == 0) know(&st, q);
    pthread_mutex_unlock(&lock);
    return got;
}
int rename(const char *from, const char *to) { return do_rename(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int a, const char *from, int b, const char *to) { return do_rename(a, from, b, to, 0); }
int renameat2(int a, const char *from, int b, const char *to, unsigned f) { return do_rename(a, from, b, to, f); }

static int do_link(int from_at, const char *from, int to_at, const char *to, int flags) {
    char b[PATH_MAX];
    const char *q = watched(to_at, to, b);
    int got = syscall(SYS_linkat, from_at, from, to_at, to, flags);
    struct stat st;
    if (got != 0 || !q || !stat_at(q, &st)) return got;
    pthread_mutex_lock(&lock);
    put((struct record){.kind = CREATE, .ino = st.st_ino, .old_len = 1, .dir = parent_of(q)}, q, NULL, NULL);
    pthread_mutex_unlock(&lock);
    return got;
}
int link(const char *from, const char *to) { return do_link(AT_FDCWD, from, AT_FDCWD, to, 0); }
int linkat(int a, const char *from, int b, const char *to, int flags) { return do_link(a, from, b, to, flags); }

static int do_unlink(int at, const char *path, int flags) {
    char full[PATH_MAX];
    const char *p = flags & AT_REMOVEDIR ? NULL : watched(at, path, full);
    struct stat st;
    if (!p || !stat_at(p, &st)) return syscall(SYS_unlinkat, at, path, flags);
    pthread_mutex_lock(&lock);
    uint64_t grave = bury(p);
    put((struct record){.kind = UNLINK, .ino = st.st_ino, .offset = grave, .dir = parent_of(p)}, p, NULL, NULL);
    int got = syscall(SYS_unlinkat, at, path, flags);
    pthread_mutex_unlock(&lock);
    return got;
}
int unlink(const char *path) { return do_unlink(AT_FDCWD, path, 0); }
int unlinkat(int at, const char *path, int flags) { return do_unlink(at, path, flags); }
