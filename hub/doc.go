// Package hub gets files of data sets from the Hugging Face hub, or from the cache
// that its Python client has filled: pinned to one commit, resumed, and checked against
// the hub's checksums.
//
// Files lie as in the hub's own cache, below [Config.Dir]:
//
//	datasets--ORG--NAME/refs/REVISION            the commit that the revision was
//	datasets--ORG--NAME/snapshots/COMMIT/PATH    a file, complete and verified
//	datasets--ORG--NAME/parts/CHECKSUM.part      the start of a file
//
// A part is named after the checksum of the whole, so that it is never continued with
// another version of the file. Who has a part open holds a lock on it: programs may
// share a directory.
package hub
