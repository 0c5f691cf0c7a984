// Package parquetfile opens Parquet files of others with the Parquet library, which
// panics, exhausts memory or ends the program on some that are damaged.
package parquetfile

import (
	"fmt"
	"io"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/format"
)

// Open opens the Parquet file of size bytes that r holds, once it is sure that the
// library can. What is read of it later may still make the library panic: whoever
// reads defers [Recover].
func Open(r io.ReaderAt, size int64) (file *parquet.File, err error) {
	defer Recover(&err)
	if err := checkFooter(r, size); err != nil {
		return nil, err
	}
	if file, err = parquet.OpenFile(r, size, parquet.SkipPageIndex(true), parquet.SkipBloomFilters(true)); err != nil {
		return nil, err
	}
	return file, checkCodecs(file.Metadata())
}

// Recover turns a panic of the library on a damaged file into the error, if it is
// deferred.
func Recover(err *error) {
	if cause := recover(); cause != nil {
		*err = fmt.Errorf("the Parquet file is corrupt: %v", cause)
	}
}

// checkCodecs refuses compressions that Parquet writers do not use by default:
// the library's LZ4 exhausts memory on corrupt pages.
func checkCodecs(file *format.FileMetaData) error {
	for _, group := range file.RowGroups {
		for _, column := range group.Columns {
			switch codec := column.MetaData.Codec; codec {
			case format.Uncompressed, format.Snappy, format.Zstd:
			default:
				return fmt.Errorf("column %q has compression %v, want none, SNAPPY or ZSTD", column.MetaData.PathInSchema, codec)
			}
		}
	}
	return nil
}
