// A delta ADS server on go-control-plane, each of its caches driven by its cheapest call.
//
//	go-control-plane (linear|snapshot) ADDRESS FILE
//
// FILE holds the resources (see bench/src/resources.rs). A line "cds INDEX" or "eds INDEX" on standard input stamps a
// resource (see bench/src/stamp.rs), publishes it and is answered "done".
package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"log"
	"math"
	"net"
	"os"
	"strconv"

	cluster "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpoint "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/envoyproxy/go-control-plane/pkg/cache/types"
	"github.com/envoyproxy/go-control-plane/pkg/cache/v3"
	"github.com/envoyproxy/go-control-plane/pkg/resource/v3"
	"github.com/envoyproxy/go-control-plane/pkg/server/v3"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// data is what is served; a resource that is changed is replaced, never written to.
type data struct {
	names     [2][]string
	resources [2][]types.Resource
}

const (
	clusters  = 0
	endpoints = 1
)

func read(path string) (*data, error) {
	all, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	d := &data{}
	part := func() []byte {
		length := binary.BigEndian.Uint32(all)
		value := all[4 : 4+length]
		all = all[4+length:]
		return value
	}
	for len(all) > 0 {
		url, name, value := string(part()), string(part()), part()
		kind, message := clusters, types.Resource(&cluster.Cluster{})
		if url == resource.EndpointType {
			kind, message = endpoints, &endpoint.ClusterLoadAssignment{}
		}
		if err := proto.Unmarshal(value, message); err != nil {
			return nil, err
		}
		d.names[kind] = append(d.names[kind], name)
		d.resources[kind] = append(d.resources[kind], message)
	}
	return d, nil
}

// stamp replaces a resource by one that says when that was.
func (d *data) stamp(kind, index int) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		log.Fatal(err)
	}
	bits := uint64(ts.Nano()) & (1<<40 - 1)
	changed := proto.Clone(d.resources[kind][index])
	switch r := changed.(type) {
	case *cluster.Cluster:
		r.CircuitBreakers.Thresholds[0].MaxRequests = wrapperspb.UInt32(uint32(bits>>10) | 1<<30)
	case *endpoint.ClusterLoadAssignment:
		bits |= 1
		address := fmt.Sprintf("127.%d.%d.%d", byte(bits>>32), byte(bits>>24), byte(bits>>16))
		locality := r.Endpoints[len(r.Endpoints)-1]
		at := len(locality.LbEndpoints) - 1
		last := locality.LbEndpoints[at].GetEndpoint().GetAddress().GetSocketAddress().GetAddress()
		if len(last) < 4 || last[:4] != "127." {
			locality.LbEndpoints = append(locality.LbEndpoints, nil)
			at++
		}
		locality.LbEndpoints[at] = &endpoint.LbEndpoint{
			HostIdentifier: &endpoint.LbEndpoint_Endpoint{Endpoint: &endpoint.Endpoint{Address: &core.Address{
				Address: &core.Address_SocketAddress{SocketAddress: &core.SocketAddress{
					Address:       address,
					PortSpecifier: &core.SocketAddress_PortValue{PortValue: uint32(bits & 0xffff)},
				}},
			}}},
			LoadBalancingWeight: wrapperspb.UInt32(1),
		}
	}
	d.resources[kind][index] = changed
}

type publisher func(kind, index int) error

func linear(d *data) (cache.Cache, publisher, error) {
	caches := [2]*cache.LinearCache{cache.NewLinearCache(resource.ClusterType), cache.NewLinearCache(resource.EndpointType)}
	byType := map[string]cache.Cache{resource.ClusterType: caches[clusters], resource.EndpointType: caches[endpoints]}
	mux := &cache.MuxCache{
		Classify:      func(request *cache.Request) string { return request.GetTypeUrl() },
		ClassifyDelta: func(request *cache.DeltaRequest) string { return request.GetTypeUrl() },
		Caches:        byType,
	}
	for kind := range caches {
		all := map[string]types.Resource{}
		for index, name := range d.names[kind] {
			all[name] = d.resources[kind][index]
		}
		caches[kind].SetResources(all)
	}
	return mux, func(kind, index int) error {
		return caches[kind].UpdateResource(d.names[kind][index], d.resources[kind][index])
	}, nil
}

type oneNode struct{}

// ID makes one snapshot serve all.
func (oneNode) ID(*core.Node) string { return "all" }

func snapshot(d *data) (cache.Cache, publisher, error) {
	snapshots := cache.NewSnapshotCache(false, oneNode{}, nil)
	version := 0
	set := func() error {
		version++
		next, err := cache.NewSnapshot(strconv.Itoa(version), map[resource.Type][]types.Resource{
			resource.ClusterType:  d.resources[clusters],
			resource.EndpointType: d.resources[endpoints],
		})
		if err != nil {
			return err
		}
		return snapshots.SetSnapshot(context.Background(), "all", next)
	}
	return snapshots, func(int, int) error { return set() }, set()
}

func run() error {
	if len(os.Args) != 4 {
		return fmt.Errorf("usage: %s linear|snapshot ADDRESS FILE", os.Args[0])
	}
	d, err := read(os.Args[3])
	if err != nil {
		return err
	}
	make := linear
	if os.Args[1] == "snapshot" {
		make = snapshot
	}
	store, publish, err := make(d)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", os.Args[2])
	if err != nil {
		return err
	}
	rpc := grpc.NewServer(grpc.MaxConcurrentStreams(math.MaxUint32), grpc.MaxRecvMsgSize(16<<20))
	discovery.RegisterAggregatedDiscoveryServiceServer(rpc, server.NewServer(context.Background(), store, nil))
	go func() { log.Fatal(rpc.Serve(listener)) }()
	fmt.Println("ready")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var word string
		var index int
		if _, err := fmt.Sscan(lines.Text(), &word, &index); err != nil {
			return err
		}
		kind := clusters
		if word == "eds" {
			kind = endpoints
		}
		d.stamp(kind, index)
		if err := publish(kind, index); err != nil {
			return err
		}
		fmt.Println("done")
	}
	return lines.Err()
}

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}
