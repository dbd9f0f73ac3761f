/* Loading a plugin file: who owns it, what it is, and only then its code. */
#include <dlfcn.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/fd.h"
#include "base/limits.h"
#include "base/log.h"
#include "plugin/internal.h"

#define ENTRY_PREFIX "berth_plugin_v"
#define ENTRY_SYMBOL ENTRY_PREFIX "0"
#define MAJORS_AHEAD 9 /* that are told from files that are no plugins at all */
#define PLUGIN_FILE_MAX BERTH_MIB(64)

/* A plugin's note is as this one up to its `major`. */
static const struct berth_note our_note = {6, 8, BERTH_NOTE_ABI, "berth", BERTH_ABI_MAJOR, 0};

/* Up to and with the last member of the first version of each struct. */
#define FIRST_SIZE(type, last) (offsetof(type, last) + sizeof(((type *)0)->last))

static int check_owner(const char *path, struct berth_error **ret_err)
{
	_cleanup_free_ char *part = berth_strdup(path);

	/* The file and every directory above it: who may write one may replace the code. */
	for (;;) {
		struct stat st;
		if (lstat(part, &st) < 0)
			return berth_error_errno(ret_err, errno, "plugin %s: %s", path, part);
		if (st.st_uid != 0 && st.st_uid != geteuid())
			return berth_error_set(ret_err, BERTH_PERMISSION_DENIED,
			        "plugin %s: %s belongs to uid %u; it must be root's", path, part,
			        (unsigned int)st.st_uid);
		bool sticky_dir = S_ISDIR(st.st_mode) && (st.st_mode & S_ISVTX);
		if ((st.st_mode & 022) && !sticky_dir)
			return berth_error_set(ret_err, BERTH_PERMISSION_DENIED,
			        "plugin %s: %s is writable by its group or by others (mode %04o)",
			        path, part, (unsigned int)st.st_mode & 07777);
		char *slash = strrchr(part, '/');
		if (!slash || strcmp(part, "/") == 0)
			return 0;
		if (slash == part)
			slash[1] = '\0';
		else
			*slash = '\0';
	}
}

/* ---- ELF: read before dlopen, because dlopen runs constructors ---- */

struct elf_view {
	const unsigned char *data;
	size_t size;
};

static const void *elf_at(const struct elf_view *v, uint64_t offset, uint64_t len)
{
	if (offset > v->size || len > v->size - offset)
		return NULL;
	return v->data + offset;
}

#if defined(__x86_64__)
#define OUR_MACHINE EM_X86_64
#elif defined(__aarch64__)
#define OUR_MACHINE EM_AARCH64
#elif defined(__riscv)
#define OUR_MACHINE EM_RISCV
#elif defined(__s390x__)
#define OUR_MACHINE EM_S390
#elif defined(__powerpc64__)
#define OUR_MACHINE EM_PPC64
#else
#define OUR_MACHINE EM_NONE
#endif

static const char *elf_headers_wrong(const struct elf_view *v, const ElfW(Ehdr) * *ret)
{
	const ElfW(Ehdr) *eh = elf_at(v, 0, sizeof(*eh));
	if (!eh || memcmp(eh->e_ident, ELFMAG, SELFMAG) != 0)
		return "it is no ELF file";
	if (eh->e_ident[EI_CLASS] != (sizeof(void *) == 8 ? ELFCLASS64 : ELFCLASS32) ||
	        (OUR_MACHINE != EM_NONE && eh->e_machine != OUR_MACHINE))
		return "it is made for another machine";
	if (eh->e_type != ET_DYN)
		return "it is no shared object";
	*ret = eh;
	return NULL;
}

static const char *elf_segments_wrong(const struct elf_view *v, const ElfW(Ehdr) * eh)
{
	const ElfW(Phdr) *ph = elf_at(v, eh->e_phoff, (uint64_t)eh->e_phnum * sizeof(*ph));
	if (!ph || eh->e_phentsize != sizeof(*ph))
		return "its program headers are damaged";
	for (unsigned int i = 0; i < eh->e_phnum; i++) {
		if (ph[i].p_type == PT_GNU_STACK && (ph[i].p_flags & PF_X))
			return "it asks for an executable stack";
		if (ph[i].p_type != PT_DYNAMIC)
			continue;
		const ElfW(Dyn) *d = elf_at(v, ph[i].p_offset, ph[i].p_filesz);
		for (size_t n = d ? ph[i].p_filesz / sizeof(*d) : 0; n > 0; n--, d++) {
			if (d->d_tag == DT_TEXTREL ||
			        (d->d_tag == DT_FLAGS && (d->d_un.d_val & DF_TEXTREL)))
				return "it has relocations in its code (TEXTREL)";
		}
	}
	return NULL;
}

static bool elf_exports(const struct elf_view *v, const ElfW(Ehdr) * eh, const char *symbol)
{
	const ElfW(Shdr) *sh = elf_at(v, eh->e_shoff, (uint64_t)eh->e_shnum * sizeof(*sh));
	if (!sh || eh->e_shentsize != sizeof(*sh))
		return false;
	for (unsigned int i = 0; i < eh->e_shnum; i++) {
		if (sh[i].sh_type != SHT_DYNSYM || sh[i].sh_link >= eh->e_shnum)
			continue;
		const ElfW(Shdr) *strings = &sh[sh[i].sh_link];
		const char *names = elf_at(v, strings->sh_offset, strings->sh_size);
		const ElfW(Sym) *sym = elf_at(v, sh[i].sh_offset, sh[i].sh_size);
		for (size_t n = sym && names ? sh[i].sh_size / sizeof(*sym) : 0; n > 0;
		        n--, sym++) {
			if (sym->st_shndx != SHN_UNDEF && sym->st_name < strings->sh_size &&
			        strncmp(names + sym->st_name, symbol,
			                strings->sh_size - sym->st_name) == 0)
				return true;
		}
	}
	return false;
}

/* Made for a later major, which has another name for its entry? 0 where it is for none. */
static unsigned int elf_newer_major(const struct elf_view *v, const ElfW(Ehdr) * eh)
{
	char symbol[32];

	for (unsigned int major = BERTH_ABI_MAJOR + 1; major <= BERTH_ABI_MAJOR + MAJORS_AHEAD;
	        major++) {
		snprintf(symbol, sizeof(symbol), ENTRY_PREFIX "%u", major);
		if (elf_exports(v, eh, symbol))
			return major;
	}
	return 0;
}

/* The note that tells which minor the file needs. False where it has none. */
static bool elf_note(const struct elf_view *v, const ElfW(Ehdr) * eh, struct berth_note *ret)
{
	const ElfW(Phdr) *ph = elf_at(v, eh->e_phoff, (uint64_t)eh->e_phnum * sizeof(*ph));

	for (unsigned int i = 0; i < eh->e_phnum; i++) {
		uint64_t at = ph[i].p_offset, left = ph[i].p_filesz,
		         align = ph[i].p_align == 8 ? 8 : 4;
		if (ph[i].p_type != PT_NOTE || !elf_at(v, at, left))
			continue;
		while (left >= sizeof(ElfW(Nhdr))) {
			ElfW(Nhdr) n;
			memcpy(&n, v->data + at, sizeof(n));
			uint64_t desc = (sizeof(n) + n.n_namesz + align - 1) / align * align;
			uint64_t len = (desc + n.n_descsz + align - 1) / align * align;
			if (len >= sizeof(*ret) && len <= left &&
			        memcmp(v->data + at, &our_note,
			                offsetof(struct berth_note, major)) == 0) {
				memcpy(ret, v->data + at, sizeof(*ret));
				return true;
			}
			if (len >= left)
				break;
			at += len;
			left -= len;
		}
	}
	return false;
}

static int check_needs(const char *path, const struct elf_view *v, const ElfW(Ehdr) * eh,
        struct berth_error **ret_err)
{
	struct berth_note n;

	if (!elf_note(v, eh, &n))
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "plugin %s: it has no note of the ABI that it needs (BERTH_PLUGIN_NEEDS)",
		        path);
	if (n.major != BERTH_ABI_MAJOR || n.needs_minor > BERTH_ABI_MINOR)
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "plugin %s: it needs ABI %u.%u, this host has %u.%u", path, n.major,
		        n.needs_minor, BERTH_ABI_MAJOR, BERTH_ABI_MINOR);
	return 0;
}

static int check_elf(const char *path, struct berth_error **ret_err)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0)
		return berth_error_errno(ret_err, errno, "plugin %s", path);
	if (!S_ISREG(st.st_mode))
		return berth_error_set(
		        ret_err, BERTH_INVALID_ARGUMENT, "plugin %s: not a regular file", path);
	if (st.st_size == 0 || (uint64_t)st.st_size > PLUGIN_FILE_MAX)
		return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
		        "plugin %s: %lld bytes is no plausible size of a plugin", path,
		        (long long)st.st_size);
	struct elf_view v = {.size = (size_t)st.st_size};
	void *map = mmap(NULL, v.size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (map == MAP_FAILED)
		return berth_error_errno(ret_err, errno, "plugin %s", path);
	v.data = map;
	const ElfW(Ehdr) *eh = NULL;
	const char *wrong = elf_headers_wrong(&v, &eh);
	if (!wrong)
		wrong = elf_segments_wrong(&v, eh);
	unsigned int newer = 0;
	if (!wrong && !elf_exports(&v, eh, ENTRY_SYMBOL)) {
		wrong = "it has no entry symbol " ENTRY_SYMBOL;
		newer = elf_newer_major(&v, eh);
	}
	int r = wrong ? 0 : check_needs(path, &v, eh, ret_err);
	munmap(map, v.size);
	if (newer)
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "plugin %s: it is made for ABI %u, this host has %u.%u", path, newer,
		        BERTH_ABI_MAJOR, BERTH_ABI_MINOR);
	return wrong ? berth_error_set(
	                       ret_err, BERTH_FAILED_PRECONDITION, "plugin %s: %s", path, wrong)
	             : r;
}

int berth_plugin_file_check(const char *path, struct berth_error **ret_err)
{
	return check_owner(path, ret_err) < 0 ? -1 : check_elf(path, ret_err);
}

/* ---- the handshake ---- */

static void copy_table(void *to, size_t ours, const void *from)
{
	uint32_t theirs = *(const uint32_t *)from; /* every table begins with its size */
	memset(to, 0, ours);
	if (from)
		memcpy(to, from, theirs < ours ? theirs : ours);
	*(uint32_t *)to = (uint32_t)ours;
}

int berth_plugin_features_check(const char *plugin, uint64_t features, struct berth_error **ret_err)
{
	const uint64_t both = BERTH_F_WHITEOUT_OVERLAY | BERTH_F_WHITEOUT_AUFS;

	if ((features & both) != both)
		return 0;
	return berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
	        "plugin %s: its features 0x%llx have two ways of writing deletions "
	        "(BERTH_F_WHITEOUT_OVERLAY, BERTH_F_WHITEOUT_AUFS)",
	        plugin, (unsigned long long)features);
}

static int adopt(struct plugin_file *f, const struct berth_plugin *d, struct berth_error **ret_err)
{
	if (!d)
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "plugin %s: it refuses this host (ABI %u.%u)", f->path, BERTH_ABI_MAJOR,
		        BERTH_ABI_MINOR);
	if (d->size < FIRST_SIZE(struct berth_plugin, extension))
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "plugin %s: its descriptor has %u bytes, at least %zu are needed", f->path,
		        d->size, FIRST_SIZE(struct berth_plugin, extension));
	copy_table(&f->desc, sizeof(f->desc), d);
	if (!d->name || strcmp(d->name, f->name) != 0)
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "plugin %s: it calls itself \"%s\", the configuration \"%s\"", f->path,
		        d->name ? d->name : "", f->name);
	if (!d->storage && !d->runtime && !d->network)
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "plugin %s: it provides no storage, no runtime and no network", f->path);
	if (!d->create || !d->destroy)
		return berth_error_set(ret_err, BERTH_FAILED_PRECONDITION,
		        "plugin %s: create and destroy are missing", f->path);
	if (d->storage)
		copy_table(&f->storage, sizeof(f->storage), d->storage);
	if (d->runtime)
		copy_table(&f->runtime, sizeof(f->runtime), d->runtime);
	if (d->network)
		copy_table(&f->network, sizeof(f->network), d->network);
	const char *lacks = berth_plugin_lacks(f);
	if (lacks)
		return berth_error_set(ret_err, BERTH_UNIMPLEMENTED,
		        "plugin %s: it has no op %s, which each plugin of its kind must have",
		        f->path, lacks);
	return berth_plugin_features_check(f->path, f->desc.features, ret_err);
}

static struct plugin_file *file_free(struct plugin_file *f)
{
	free(f->name);
	free(f->path);
	free(f);
	return NULL;
}

static struct plugin_file *load(
        const char *dir, const char *name, const char *path, struct berth_error **ret_err)
{
	char real[PATH_MAX];
	_cleanup_free_ char *in_dir = NULL;

	if (!path) {
		if (strchr(name, '/')) {
			berth_error_set(ret_err, BERTH_INVALID_ARGUMENT,
			        "plugin \"%s\": a name, not a path (use path: for a file)", name);
			return NULL;
		}
		path = in_dir = berth_asprintf("%s/%s.so", dir, name);
	}
	if (!realpath(path, real)) {
		berth_error_errno(ret_err, errno, "plugin %s: %s", name, path);
		return NULL;
	}
	if (berth_plugin_file_check(real, ret_err) < 0)
		return NULL;
	/* Never closed again: code of it may be on a stack or in an exit handler. */
	void *dl = dlopen(real, RTLD_NOW | RTLD_LOCAL);
	const struct berth_plugin *(*entry)(uint32_t) = NULL;
	if (dl)
		*(void **)&entry = dlsym(dl, ENTRY_SYMBOL);
	if (!entry) {
		berth_error_set(
		        ret_err, BERTH_FAILED_PRECONDITION, "plugin %s: %s", real, dlerror());
		return NULL;
	}
	struct plugin_file *f = berth_new(struct plugin_file);
	f->name = berth_strdup(name);
	f->path = berth_strdup(real);
	if (adopt(f, entry(BERTH_ABI_MINOR), ret_err) < 0)
		return file_free(f);
	return f;
}

int berth_plugin_try(
        const char *plugin_dir, const char *name, const char *path, struct berth_error **ret_err)
{
	struct plugin_file *f = load(plugin_dir, name, path, ret_err);

	if (!f)
		return -1;
	file_free(f);
	return 0;
}

struct plugin_file *berth_plugin_load(struct berth_plugin_host *h, const char *name,
        const char *path, struct berth_error **ret_err)
{
	struct plugin_file *f;

	for (f = h->files; f; f = f->next) {
		if (strcmp(f->name, name) == 0)
			return f;
	}
	f = load(h->plugin_dir, name, path, ret_err);
	if (!f)
		return NULL;
	berth_log_info(
	        "plugin loaded", "plugin", name, "version", f->desc.version, "path", f->path);
	f->next = h->files;
	h->files = f;
	return f;
}
