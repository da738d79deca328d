# frozen_string_literal: true

require 'open3'
require 'stringio'
require 'zlib'

# The bytes inside a compressed file, read as strictly as the strictest consumer does.
module Compressed
  class Broken < StandardError; end

  MAGIC = { gzip: "\x1f\x8b".b, bzip2: 'BZh'.b, xz: "\xFD7zXZ\x00".b, zstd: "\x28\xB5\x2F\xFD".b }.freeze
  CHUNK = 1 << 16

  module_function

  # :gzip, :bzip2, :xz, :zstd or :none
  def kind(bytes) = MAGIC.find { |_, magic| bytes.start_with?(magic) }&.first || :none

  # Everything in `io` (a gzip stream), written to `sink`. Ruby's reader silently stops after the first member, and so does
  # the Director: data after that member would be lost there, so it is an error here.
  def gunzip(io, sink)
    reader = Zlib::GzipReader.new(io)
    while (chunk = reader.read(CHUNK))
      sink.write(chunk)
    end
    unread = (reader.unused || '').bytesize + (io.read || '').bytesize
    raise Broken, "#{unread} bytes after the first gzip member: Ruby would not read them" if unread.positive?
  rescue Zlib::Error => e
    raise Broken, "gzip: #{e.message} (#{e.class})"
  end

  def unpacked(bytes)
    sink = StringIO.new(''.b)
    case kind(bytes)
    when :none then return bytes
    when :gzip then gunzip(StringIO.new(bytes), sink)
    else
      out, status = Open3.capture2(kind(bytes).to_s, '-dc', stdin_data: bytes, binmode: true)
      raise Broken, "#{kind(bytes)} cannot read it" unless status.success?

      sink.write(out)
    end
    sink.string
  end
end
