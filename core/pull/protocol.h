/* clang-format off */
/* What berthd and berth-pull say to each other.
 *
 * A SOCK_SEQPACKET socketpair, berth-pull's end is fd 3. One packet is one JSON object of at most BERTH_PULL_PACKET
 * bytes, with at most one fd beside it (SCM_RIGHTS). `t` names the packet. Neither side trusts the other's sizes, and
 * berthd trusts nothing but the syntax of what a puller says: digests are checked for form, counts against limits.
 *
 * berthd -> berth-pull, first:
 *   {"t":"pull", "image": REF (normalised: registry/path:tag or @digest), "registries": PATH, "certs_dirs": [PATH...],
 *    "auth_files": [PATH...], "auth": {"username","password","auth","identity_token","registry_token",
 *    "server_address"} | absent, "platform": {"os","architecture","variant"}, "parallel": N, "detached": BOOL,
 *    "whiteout": "overlay" | "aufs" | "delete", "stall_ms": N | absent (a transfer without a byte for so long is broken
 *    off and resumed; 30000)}
 *    "down": [HOST...] | absent: hosts that lately did not answer, to be asked after others
 *    `auth` with a server_address is for that host alone, else for the image's registry but no mirror of it
 *   {"t":"import", "ref": REF | absent, ... the same platform, parallel, detached, whiteout}, fd: the file or directory,
 *      open for reading: an OCI layout, an oci-archive or a docker-archive. With a ref the only image takes it as its
 *      name, and of several those are taken whose own name it is; without one all are taken
 *   {"t":"copy", "layers": N, ... parallel, detached, whiteout}   an image that another storage driver of this node has
 *   {"t":"export", "tags": [], "digests": [], ... parallel}, fd: an image store's directory (core/pull/shared.h); then
 *      {"t":"record"}, fd: memfd with the record of the image that it shall hold
 *   {"t":"shared", "dir": PATH, "known": GENERATION | ""}   what has the image store there? fd: what was told last of the
 *      layers of that generation, if it was
 *   {"t":"checkpoint", "skip": [PATH...] (nothing of these is the container's), "own": BOOL (the top is its own directory,
 *    and `below` what its opaque directories hide; else it is what differs), "uids", "gids": [[INSIDE, HOST, COUNT]...]
 *    (owners to be turned back)}, fd: a directory, which takes rootfs-diff.tar and deleted.files; then `source` for layer 0,
 *    and after `diffed` {"t":"dir", "n": 0}, fd: the file that takes an archive of the directory
 * berth-pull -> berthd:
 *   {"t":"alive"}                  a look goes on, and the store has answered since the last one; at most two a second
 *   {"t":"index"}, fd: memfd with the parsed index, where the generation is not the known one
 *   {"t":"shared", "generation": NAME}, fd: memfd {CHAIN_ID: true (it can be used) | {"code": gRPC code, "msg": why not}...};
 *      without an fd where it is what was told last. Then it exits
 *   {"t":"exported"}               then it exits
 *   {"t":"diffed"}                 checkpoint: the container's files are not needed any more
 *   {"t":"layers"}                 copy: asks which of the layers are there
 *   {"t":"source", "n": I}         copy: asks for layer I as the other driver has it
 *   {"t":"image", "digest": manifest digest, "config_digest", "layers": [{"diff_id","chain_id","digest","size"}...]}
 *      an import of an archive with several images sends one `image` ... `record` sequence per image and name. A
 *      docker-archive has neither manifest nor layer digests: its digest is that of the OCI manifest that says the same,
 *      a layer's `digest` its diff_id
 *   {"t":"open", "n": I}           asks for the directory of layer I
 *   {"t":"fetch", "n": I}          asks to begin the download of layer I (not of an import); `open` came before
 *   {"t":"host", "host": HOST, "up": BOOL}   a registry or mirror answers, or does not after all tries; at any time
 *   {"t":"opaque", "n": I}, fd     mark this directory of layer I opaque for the driver; no answer, a failure aborts
 *   {"t":"unpacked", "n": I, "bytes": B, "inodes": N, "implied": M}, fd: memfd with the M implied directories' paths,
 *      each relative, NUL-terminated, parents first (no fd where M is 0)
 *   {"t":"progress", "n": I, "done": B, "total": B}   compressed bytes; at most ten a second for each layer
 *   {"t":"record"}, fd: memfd with the image record (see below)
 *   {"t":"error", "code": gRPC code, "msg": TEXT}     then it exits
 * berthd -> berth-pull:
 *   {"t":"have", "have": [BOOL...]}   answers `image` and `layers`: layers that need no work
 *   {"t":"dir", "n": I}, fd           answers `open`: a detached clone of the layer's mount, nodev,nosuid,noexec. Where the
 *                                     driver is not `detached`, it comes only once layer I-1 is committed, with the
 *                                     parent's content in it
 *   {"t":"fetch", "n": I}, fd         answers `fetch`, as soon as the node and the registry may have one more download:
 *                                     the file in which what comes of the blob is kept for a later pull (core/pull/kept.h);
 *                                     without an fd nothing is kept
 *   {"t":"source", "n": I, "part": "top" | "below" | "opaque"}, fd    answer `source`, the top last: mounts as of `dir`
 *                                     and a memfd, each path in it NUL-terminated (core/pull/emit.h says what they are)
 *   {"t":"stored"}                    answers `record`, or the last `unpacked` of a copy: all layers are committed and the record is on disk
 *   {"t":"abort", "msg": TEXT}
 * A closed socket means: stop at once.
 *
 * The image record, the only thing that berthd keeps of what came from outside (JSON, at most BERTH_PULL_RECORD bytes):
 *   {"v":1, "id": "sha256:..." (the config's digest), "digest": manifest digest, "index_digest": where it came through a list,
 *    "ref": the request's REF, or the name in the archive as it is written there (not normalised) | absent, "size":
 *    compressed layers + config, "created" | absent, "os", "architecture", "variant" | absent (the text of the config),
 *    "layers": [{"diff_id","chain_id","digest","size"}...],
 *    "config": {"user","env":[],"entrypoint":[],"cmd":[],"working_dir","volumes":[],"stop_signal","labels":{},
 *    "exposed_ports":[]}, "annotations": {}, "artifact": its type | absent}
 * An artifact (core/pull/artifact.h): "id" is the manifest's digest, "config" is empty, and a "diff_id" names a file and
 * its blob.
 * ChainID: OCI image-spec, config.md: the first layer's is its DiffID, then sha256 of "PARENT DIFFID".
 */
#ifndef BERTH_PULL_PROTOCOL_H
#define BERTH_PULL_PROTOCOL_H

#define BERTH_PULL_FD 3
#define BERTH_PULL_PACKET (160 * 1024)
#define BERTH_PULL_RECORD (4 * 1024 * 1024)

#define BERTH_PULL_UNAVAILABLE "RegistryUnavailable: " /* the kubelet knows such an error by its first word */
#define BERTH_PULL_PARTIAL_HEAD 4096 /* a kept blob begins behind it */

#define BERTH_LIMIT_IMAGE_LAYERS 500
#define BERTH_LIMIT_MANIFEST (4 * 1024 * 1024)
#define BERTH_LIMIT_IMAGE_CONFIG (4 * 1024 * 1024)
#define BERTH_LIMIT_INDEX_ENTRIES 1024
#define BERTH_LIMIT_LAYER_ENTRIES 1000000 /* tar entries of one layer: one more is refused */
#define BERTH_LIMIT_LAYER_BYTES (1ULL << 40) /* unpacked */
#define BERTH_LIMIT_IMPLIED_DIRS 65536
#define BERTH_LIMIT_PATH 4096

#endif
